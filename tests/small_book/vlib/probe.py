STATE = "first"
