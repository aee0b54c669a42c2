"""What belongs to no room: files, arrays on disk, random numbers by place, processes."""
