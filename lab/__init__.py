"""The lab: a virtual machine with a real kernel and SR-IOV NICs, which referees the program."""
