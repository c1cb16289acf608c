"""What each peer may do: the compiled rules of the configuration, and the permissions that they grant."""
