"""Reading shopping events: from somebody's files to the events contract, in order, with periods."""
