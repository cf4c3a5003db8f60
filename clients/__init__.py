"""What runs on a client: its training, its evaluation, its private state, and the ClientApp."""
