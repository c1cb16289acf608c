"""Limits for each user, so that no user can use up the broker's resources and shut out the others."""
