"""What `nsbroker exporter` is made of.

`targets` says which networks there are, `open_network` holds one open and reads it, `networks` keeps all of them up to date,
`network_metrics` makes metrics of what was read, and `metrics_server` serves them.  `broker_metrics` makes metrics of the state of
the broker, for `nsbroker status --prometheus`.
"""
