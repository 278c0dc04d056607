"""Many videos: what is to be made (items), what was made (journal), and making the rest, here or on a cluster.

items → runner → maker (one process) or cluster (Ray) → store, which writes outputs and journal.
"""
