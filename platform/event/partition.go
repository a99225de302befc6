package event

// PartitionOf returns the partition of a key among the given number of
// partitions. It is fixed for ever: stored facts carry its answer, and all
// contexts rely on one order having one partition number. The function is the
// one Kafka's Java clients use by default (murmur2 of the bytes, sign bit
// dropped, modulo), so that foreign tools that partition by key agree with it.
//
// It panics if partitions is not positive.
func PartitionOf(key string, partitions int32) int32 {
	if partitions <= 0 {
		panic("event: PartitionOf: number of partitions must be positive")
	}
	return int32(murmur2(key)&0x7fffffff) % partitions
}

// murmur2 is Austin Appleby's MurmurHash2 with the seed Kafka fixed.
func murmur2(s string) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := seed ^ uint32(len(s))
	for len(s) >= 4 {
		k := uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h = h*m ^ k
		s = s[4:]
	}
	switch len(s) {
	case 3:
		h ^= uint32(s[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(s[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(s[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
