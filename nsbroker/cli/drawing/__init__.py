"""The picture that `nsbroker map` draws: which namespaces are shared by whom."""
