package main

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

type viewDescribeCmd struct{ viewFlag }

func (c *viewDescribeCmd) Run(a *app) error {
	ctx, cancel := a.call()
	defer cancel()
	r, err := readmodelv1.NewReadModelServiceClient(c.conn(a)).DescribeReadModel(ctx, &readmodelv1.DescribeReadModelRequest{Name: c.View})
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(r, false)
	}
	if err := describeContract(a, r.GetContract()); err != nil {
		return err
	}
	return describeStanding(a, r.GetStanding())
}

func describeContract(a *app, p *readmodelv1.Contract) error {
	if p == nil {
		return nil
	}
	if err := pairs(a.out, "view", fmt.Sprintf("%s, version %d", p.GetName(), p.GetVersion()), "question", clean(p.GetQuestion()),
		"owner", clean(p.GetOwner()), "consumers", list(p.GetConsumers()), "sources of truth", list(p.GetSources()),
		"staleness objective", short(p.GetStalenessObjective().AsDuration()),
		"rebuilt", clean(p.GetRebuildStrategy())+", within "+clean(p.GetRebuildTimeBudget()), "reconciled by", list(p.GetReconciliation())); err != nil {
		return err
	}
	compared := [][]string{{"OWNER OF", "COMPARED WITH ITS ANSWERS"}}
	for _, source := range p.GetSources() {
		fields := "not compared with the owner's answers, only with its journal"
		for _, f := range p.GetOwnerFields() {
			if f.GetSource() == source {
				fields = list(f.GetFields())
			}
		}
		compared = append(compared, []string{clean(source), clean(fields)})
	}
	if err := table(a.out, compared...); err != nil {
		return err
	}
	queries := [][]string{{"QUERY", "CONSISTENCY"}}
	for _, q := range p.GetQueries() {
		queries = append(queries, []string{clean(q.GetName()), word(q.GetConsistency(), "CONSISTENCY_")})
	}
	personal := [][]string{{"PERSONAL DATA", "KEPT FOR"}}
	for _, d := range p.GetPersonalData() {
		personal = append(personal, []string{clean(d.GetField()), clean(d.GetPurpose())})
	}
	if err := table(a.out, queries...); err != nil {
		return err
	}
	if err := table(a.out, personal...); err != nil {
		return err
	}
	if len(p.GetPolicy().GetFields()) == 0 {
		return nil
	}
	policy := [][]string{{"POLICY", "SAYS"}}
	for _, name := range slices.Sorted(maps.Keys(p.GetPolicy().GetFields())) {
		raw, err := protojson.Marshal(p.GetPolicy().GetFields()[name])
		if err != nil {
			return fmt.Errorf("write the policy: %w", err)
		}
		policy = append(policy, []string{clean(name), clean(string(raw))})
	}
	return table(a.out, policy...)
}

func describeStanding(a *app, s *readmodelv1.Standing) error {
	paused := s.GetPaused()
	if paused == "" {
		paused = "no"
	}
	if err := pairs(a.out, "generation", s.GetGeneration()+", "+s.GetGenerationStatus(),
		"answering", s.GetAnswering()+yes(s.GetAnswering() != s.GetGeneration(), " (stands still)"),
		"partitions", fmt.Sprintf("%d of %d are read by this process", s.GetAssigned(), s.GetPartitions()), "paused", clean(paused),
		"reconciled", reconciliationText(s.GetLastReconciliation()),
		"reconciled all the time", reconciliationText(s.GetContinuousReconciliation())); err != nil {
		return err
	}
	if err := table(a.out, sourceRows(s.GetSources())...); err != nil {
		return err
	}
	parked := [][]string{{"PARKED", "AGGREGATES", "SINCE (UTC)"}}
	for _, class := range s.GetParked() {
		parked = append(parked, []string{class.GetVerdict(), count(class.GetAggregates()), timeText(class.GetOldest())})
	}
	return table(a.out, parked...)
}

func reconciliationText(r *readmodelv1.Reconciliation) string {
	if r == nil {
		return "never"
	}
	at := r.GetFinishedAt()
	if at == nil {
		at = r.GetStartedAt()
	}
	var compared, moved int64
	for _, t := range r.GetOwners() {
		compared, moved = compared+t.GetCompared(), moved+t.GetMoved()
	}
	return fmt.Sprintf("%s UTC: %s, %d orders, %d aggregates with their owners' answers (%d moved), %d differences",
		timeText(at), clean(r.GetResult()), r.GetOrders(), compared, moved, r.GetDifferences())
}
