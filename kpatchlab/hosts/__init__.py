"""Other hosts: logging in, what they can do, and a copy of the lab there."""
