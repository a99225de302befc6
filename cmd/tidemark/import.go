package main

type importCmd struct {
	Olist importOlistCmd `cmd:"" help:"The CSV files of the public Olist dataset."`
}

type importOlistCmd struct {
	Dir string `arg:"" help:"Directory with the CSV files." type:"existingdir"`
}

func (c *importOlistCmd) Run(*app) error { return usage("not built yet") }
