"""Real servers for the tests: one class per server, each on a free loopback port in its own folder.

They do not touch the servers of the operating system.
"""
