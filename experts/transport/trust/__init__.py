"""Who is at the other end: the secret and the digest that peers prove to each other before anything else is read."""
