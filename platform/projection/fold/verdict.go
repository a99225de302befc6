package fold

import (
	"bytes"
	"crypto/sha256"

	"github.com/tidemark-dev/tidemark/platform/event"
)

// Verdict is what the kernel decides about one fact, from the versions applied
// so far. Fold sees only facts whose verdict is Apply.
type Verdict string

// The verdicts.
const (
	// Apply: the next version of its aggregate.
	Apply Verdict = "apply"
	// Duplicate: applied before.
	Duplicate Verdict = "duplicate"
	// Superseded: of an older epoch than its aggregate's.
	Superseded Verdict = "superseded"
	// Adopt: an applied fact again, under a newer epoch, as when a source sends
	// its whole journal anew. Nothing is folded; the last one takes the epoch.
	Adopt Verdict = "adopt"
	// Equivocation: an applied version again, with another event id. Parks.
	Equivocation Verdict = "equivocation"
	// Gap: a version is missing before it. Parks, and heals by itself.
	Gap Verdict = "gap"
	// Poison: it cannot be read or folded. Parks.
	Poison Verdict = "poison"
	// NewerEpoch: of a newer epoch that does not continue what was applied.
	// Parks, without alarm, to be refolded from the journal.
	NewerEpoch Verdict = "newer_epoch"
	// TooLarge: the order's state would exceed MaxState. The whole order parks.
	TooLarge Verdict = "too_large"
	// Behind: an earlier fact of its aggregate is parked, so it parks too.
	Behind Verdict = "behind"
)

const (
	window      = 16 // versions whose event ids are remembered
	fingerprint = 4  // bytes remembered of each
)

// Applied is the applied-version record of one aggregate. It advances for
// facts that the view ignores too, and outlives everything the view forgets.
type Applied struct {
	Epoch   string `json:"e"`
	Version int64  `json:"v"`
	// Recent holds the fingerprints of the last versions, the newest last.
	Recent []byte `json:"r,omitempty"`
	// Parked is the verdict that parked the aggregate, or "".
	Parked Verdict `json:"p,omitempty"`
	// Skipped is how many of its facts were given up.
	Skipped int64 `json:"k,omitempty"`
	// Again says how far applied versions were stated again in a newer epoch.
	Again *restated `json:"n,omitempty"`
}

type restated struct {
	Epoch   string `json:"e"`
	Version int64  `json:"v"`
}

// restates reports whether the fact was stated again before.
func (a *Applied) restates(f event.Envelope) bool {
	return a.Again != nil && a.Again.Epoch == f.Epoch && f.Version <= a.Again.Version
}

// adopt takes an applied version that is stated again in a newer epoch, and with
// the last one the epoch.
func (a *Applied) adopt(f event.Envelope) {
	if f.Version == a.Version {
		a.Epoch, a.Again = f.Epoch, nil
		return
	}
	a.Again = &restated{f.Epoch, f.Version}
}

func fingerprintOf(eventID string) []byte {
	sum := sha256.Sum256([]byte(eventID))
	return sum[:fingerprint]
}

// Holds reports whether the event id stands at the version, and whether that
// can still be told.
func (a *Applied) Holds(version int64, eventID string) (same, known bool) {
	back := int(a.Version-version) + 1
	if version > a.Version || version < 1 || back*fingerprint > len(a.Recent) {
		return false, false
	}
	at := len(a.Recent) - back*fingerprint
	return bytes.Equal(a.Recent[at:at+fingerprint], fingerprintOf(eventID)), true
}

// Covers reports whether the fact was applied, as far as can be told.
func (a *Applied) Covers(f event.Envelope) bool {
	if a == nil || f.Version > a.Version || f.Epoch > a.Epoch && !a.restates(f) {
		return false
	}
	same, known := a.Holds(f.Version, f.ID)
	return same || !known
}

// judge compares a fact with what was applied of its aggregate. It does not
// look at whether the aggregate is parked.
func (a *Applied) judge(f event.Envelope) Verdict {
	if a.Version > 0 && f.Epoch < a.Epoch {
		return Superseded
	}
	sameEpoch := a.Version == 0 || f.Epoch == a.Epoch
	same, known := a.Holds(f.Version, f.ID)
	switch {
	case f.Version == a.Version+1:
		return Apply
	case !sameEpoch && a.restates(f):
		return Duplicate
	case !sameEpoch && same:
		return Adopt
	case !sameEpoch:
		return NewerEpoch
	case f.Version > a.Version:
		return Gap
	case known && !same:
		return Equivocation
	}
	return Duplicate
}

// advance records that the fact was applied.
func (a *Applied) advance(f event.Envelope) {
	a.Epoch, a.Version, a.Again = f.Epoch, f.Version, nil
	a.Recent = append(a.Recent, fingerprintOf(f.ID)...)
	if extra := len(a.Recent) - window*fingerprint; extra > 0 {
		a.Recent = append([]byte(nil), a.Recent[extra:]...)
	}
}
