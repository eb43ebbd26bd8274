"""Tables, pictures and curves, as several commands draw them."""
