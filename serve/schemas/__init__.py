"""JSON Schemas, the words they are written with, and checks of JSON against them."""
