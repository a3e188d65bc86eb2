"""The figures of native speed: what each row measures, the machine's limits, and the floor of each figure."""
