"""What is there: one pass over the host (census), how namespaces are related, what of it a peer may see, and the verbs
List and Watch.
"""
