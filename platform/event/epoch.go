package event

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"
)

const (
	epochTime   = "20060102T150405.000Z"
	epochRandom = 8 // bytes
)

// NewEpoch mints a source epoch: the time, then 64 random bits, as in
// "20261130T101502.123Z-9f1c22d07ab34e55". Epochs of one source sort by age as
// plain strings: if the clock stands at or behind the predecessor's mint time,
// the new epoch takes the millisecond after it. The first epoch of a source
// has the predecessor "".
//
// A source starts a new epoch when its database went back in time (a restore,
// a failover that lost a tail), because versions may then be used twice.
func NewEpoch(now time.Time, predecessor string) (string, error) {
	now = now.UTC().Truncate(time.Millisecond)
	if predecessor != "" {
		minted, err := EpochTime(predecessor)
		if err != nil {
			return "", fmt.Errorf("predecessor: %w", err)
		}
		if !now.After(minted) {
			now = minted.Add(time.Millisecond)
		}
	}
	var random [epochRandom]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", fmt.Errorf("mint epoch: %w", err)
	}
	epoch := now.Format(epochTime) + "-" + hex.EncodeToString(random[:])
	if _, err := EpochTime(epoch); err != nil {
		return "", fmt.Errorf("mint epoch at %s: %w", now, err)
	}
	return epoch, nil
}

// EpochTime returns when the epoch was minted, to the millisecond, or an error
// if the string was not made by [NewEpoch].
func EpochTime(epoch string) (time.Time, error) {
	if len(epoch) != len(epochTime)+1+2*epochRandom || epoch[len(epochTime)] != '-' {
		return time.Time{}, fmt.Errorf("epoch %q: not a time, a dash and %d hex digits", epoch, 2*epochRandom)
	}
	minted, err := time.Parse(epochTime, epoch[:len(epochTime)])
	if err != nil {
		return time.Time{}, fmt.Errorf("epoch %q: %w", epoch, err)
	}
	for _, digit := range []byte(epoch[len(epochTime)+1:]) {
		if (digit < '0' || digit > '9') && (digit < 'a' || digit > 'f') {
			return time.Time{}, fmt.Errorf("epoch %q: %q is not a lower-case hex digit", epoch, digit)
		}
	}
	return minted, nil
}
