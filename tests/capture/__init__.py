"""Tests of `nsbroker.capture`."""
