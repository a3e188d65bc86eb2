"""Who is where: the registry of a cluster's processes, an entry of it, draining, and what each process sets up."""
