package main

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"

	freshnessv1 "github.com/tidemark-dev/tidemark/proto/freshness/v1"
	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

// viewCmd is for operators of the read models. Every read model serves the same
// services for it, whatever it remembers.
type viewCmd struct {
	List     viewListCmd     `cmd:"" help:"The read models: what each answers, and how it stands."`
	Describe viewDescribeCmd `cmd:"" help:"What a read model promises, and what is true now."`
	Parked   viewParkedCmd   `cmd:"" help:"Facts that could not be applied."`
	generationCmds
}

// viewFlag names a read model.
type viewFlag struct {
	View string `help:"timeline or operations." enum:"timeline,operations" default:"timeline" env:"TIDEMARK_VIEW"`
}

// conn is the connection to the read model's server.
func (v viewFlag) conn(a *app) grpc.ClientConnInterface { return a.Views[v.View] }

type viewListCmd struct{}

func (c *viewListCmd) Run(a *app) error {
	rows := [][]string{{"VIEW", "QUESTION", "OWNER", "GENERATION", "STALENESS", "COMPLETE", "PARKED"}}
	var all []*readmodelv1.ReadModel
	var failed []error
	for _, name := range slices.Sorted(maps.Keys(a.Views)) {
		ctx, cancel := a.call()
		r, err := readmodelv1.NewReadModelServiceClient(a.Views[name]).ListReadModels(ctx, &readmodelv1.ListReadModelsRequest{})
		cancel()
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, r.GetReadModels()...)
	}
	if a.json() {
		return errors.Join(a.printJSON(&readmodelv1.ListReadModelsResponse{ReadModels: all}, false), errors.Join(failed...))
	}
	for _, m := range all {
		age := "unknown"
		if m.GetStaleness() != nil {
			age = short(m.GetStaleness().AsDuration())
		}
		rows = append(rows, []string{
			m.GetName(), clean(m.GetQuestion()), clean(m.GetOwner()), m.GetAnswering(), age,
			word(m.GetCompleteness(), "COMPLETENESS_"), count(m.GetParked()) + yes(m.GetPaused(), ", PAUSED"),
		})
	}
	if len(rows) > 1 {
		if err := table(a.out, rows...); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// sourceRows lists how fresh each source is.
func sourceRows(sources []*freshnessv1.SourceFreshness) [][]string {
	rows := [][]string{{"SOURCE", "AS OF (UTC)", "STALENESS", "COMPLETE", "UNTIL (UTC)", "WHY NOT"}}
	for _, s := range sources {
		age := "unknown"
		if s.GetStaleness() != nil {
			age = short(s.GetStaleness().AsDuration())
		}
		rows = append(rows, []string{
			s.GetSource(), timeText(s.GetAsOf()), age, word(s.GetCompleteness(), "COMPLETENESS_"), timeText(s.GetProvenUntil()),
			clean(s.GetCompletenessReason()),
		})
	}
	return rows
}

// list joins texts of a server for one line.
func list(texts []string) string { return clean(strings.Join(texts, ", ")) }
