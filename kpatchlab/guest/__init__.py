"""Guests: one QEMU each, reached through an agent of the lab's own."""
