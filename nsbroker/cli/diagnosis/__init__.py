"""What `nsbroker doctor` checks: a module for each subject.  A check is a function that returns rows, and that changes nothing."""
