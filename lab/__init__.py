"""The lab: tests of the program in a virtual machine with a real kernel and SR-IOV NICs."""
