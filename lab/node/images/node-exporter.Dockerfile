# Debian's node_exporter, with the libraries that it needs.
FROM scratch
COPY lib64/ld-linux-x86-64.so.2 /lib64/
COPY usr/lib/x86_64-linux-gnu/libc.so.6 /lib/x86_64-linux-gnu/
COPY usr/bin/prometheus-node-exporter /bin/node_exporter
ENTRYPOINT ["/bin/node_exporter"]
