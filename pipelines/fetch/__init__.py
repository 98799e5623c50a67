"""The tool `fetch`: published data sets from the network into data/.

`data_sets` knows the addresses and hands over to DVC, `archives` downloads, verifies and unpacks.
"""
