"""What runs on the server: the rounds, the averaging, the messages, and the ServerApp."""
