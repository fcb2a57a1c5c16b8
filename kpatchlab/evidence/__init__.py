"""What a guest said: its kernel's log as splats, a scenario's output as cases and figures."""
