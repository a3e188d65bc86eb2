"""Who may call, within which limits, and the certificates of the connection."""
