"""A plan, carried out: stages, jobs, their guests, and the functions that are counted in them."""
