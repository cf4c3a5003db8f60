"""Split inference over a real connection: a device that answers alone or asks the server."""
