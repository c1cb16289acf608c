"""The contract between the broker and its clients: the interface io.nsbroker.Broker, its messages, and the broker's address."""
