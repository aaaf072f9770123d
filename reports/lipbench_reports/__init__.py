"""Tables, figures and the HTML report. Takes pandas DataFrames; imports neither torch nor lipbench."""
