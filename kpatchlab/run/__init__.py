"""A plan that is carried out: stages, jobs, their guests, and what is counted in them."""
