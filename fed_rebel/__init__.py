"""Federated ReBEL: early exits and split inference over clients whose data differ."""
