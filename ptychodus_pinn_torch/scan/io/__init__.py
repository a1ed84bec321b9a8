"""The door: files of any layout become arrays by name, and one step makes a scan of those."""
