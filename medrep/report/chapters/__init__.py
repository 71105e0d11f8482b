"""What each kind of run shows: functions from a folder of files to sections."""
