"""What each peer may do: the rules of the configuration, compiled, and the permissions that they grant."""
