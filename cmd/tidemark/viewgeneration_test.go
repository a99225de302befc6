package main

import (
	"testing"

	readmodelv1 "github.com/tidemark-dev/tidemark/proto/readmodel/v1"
)

func TestGenerationState(t *testing.T) {
	for _, tt := range []struct {
		given *readmodelv1.Generation
		want  string
	}{
		{&readmodelv1.Generation{State: readmodelv1.GenerationState_GENERATION_STATE_BUILDING}, "building"},
		{&readmodelv1.Generation{State: readmodelv1.GenerationState_GENERATION_STATE_BUILDING, DerivedFrom: "timeline/3-98a33a0d", Derived: 1200}, "building from the states of timeline/3-98a33a0d (1200 orders)"},
		{&readmodelv1.Generation{State: readmodelv1.GenerationState_GENERATION_STATE_SERVING, DerivedFrom: "timeline/3-98a33a0d"}, "serving"},
	} {
		if got := generationState(tt.given); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
