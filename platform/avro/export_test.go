package avro

import (
	"github.com/tidemark-dev/tidemark/platform/event"
	"github.com/tidemark-dev/tidemark/schemas"
)

// ViaNative reads bytes as all but today's versions are read.
func (c *Codec) ViaNative(key schemas.Key, bare []byte) (event.Body, error) {
	w := c.writer(key)
	if err := w.shape.check(bare); err != nil {
		return nil, err
	}
	return c.viaNative(w, bare)
}
