"""Real servers for the tests: one class per server, each on a free loopback port in its own folder.

They never use, stop or collide with what the operating system itself may run.
"""
