"""What the broker and its clients agree on: the varlink interface io.nsbroker.Broker, its messages, and the broker's address."""
