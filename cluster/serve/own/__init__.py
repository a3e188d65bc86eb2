"""A Ray of our own: its processes, its folders, and what is said when it ends under a cluster that serves."""
