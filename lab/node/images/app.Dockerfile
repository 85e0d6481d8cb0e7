# What the tests' pods run, and the sandbox of each pod.
FROM scratch
COPY usr/bin/busybox /bin/busybox
RUN ["/bin/busybox", "--install", "/bin"]
ENV PATH=/bin
ENTRYPOINT ["/bin/sleep", "infinity"]
