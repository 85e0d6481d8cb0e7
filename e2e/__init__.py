"""End-to-end tests: real programs read what sriov-textfile writes."""
