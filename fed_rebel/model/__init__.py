"""The networks of ReBEL: the base model cut in two, Head1, Head2 and the code between them."""
