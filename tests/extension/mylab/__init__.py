"""A researcher's own package, as any user of tlearn could write one."""
