"""The library's verbs, a file each: the straight path of the data. ``cli`` parses what is typed, and shows what is found."""
