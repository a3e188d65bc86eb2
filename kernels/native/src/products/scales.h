// What multiplies a group's sums. Included once for each instruction set.

namespace expertmesh::EM_ISA {

// FP8 (E4M3) in the highest byte of each lane. Its exponent's bias is 7 where float32 has 127: the bits in place are
// 2**-120 of the value, and the product with 2**120 makes denormals right too. Codes of NaN do not come here.
inline F from_e4m3(I code) {
    const I bits = Vec::andi(Vec::template arithmetic_right<4>(code), Vec::seti(static_cast<int32_t>(0x87f00000u)));
    return Vec::mul(Vec::as_float(bits), Vec::set(0x1p120f));
}

// Scales of L outputs. E8M0: 2**(code - 127) (OCP Microscaling Formats v1.0, section 5.4.1), codes 1 to 254; with 0, which
// is denormal, or NaN among them scales are float32.
inline F scales_at(Scale kind, const uint8_t* at, int lane) {
    switch (kind) {
        case Scale::F32: return Vec::load(reinterpret_cast<const float*>(at) + lane);
        case Scale::BF16: return load_as(Dtype::BF16, at, lane);
        case Scale::F16: return load_as(Dtype::F16, at, lane);
        case Scale::HALVES: return Vec::set(reinterpret_cast<const float*>(at)[lane / kHalf]);
        case Scale::E8M0: return Vec::as_float(Vec::template left<23>(Vec::bytes(at + lane)));
        case Scale::E4M3: return from_e4m3(Vec::template left<24>(Vec::bytes(at + lane)));
        default: return Vec::set(1.0f);
    }
}

// What a thread reads behind a panel: another one of as many groups.
struct Next {
    const uint8_t* values;
    const uint8_t* scales;
    const uint8_t* zeros;

    Next(const Matrix& w, int64_t panel) {
        panel = panel < w.panels ? panel : w.panels - 1;
        const int64_t first = panel * groups_of(w);
        values = w.values + panel * panel_bytes(static_cast<Format>(w.format), w.inputs);
        scales = w.scales == nullptr ? values : w.scales + first * scale_bytes(static_cast<Scale>(w.scale));
        zeros = w.zeros == nullptr ? scales : w.zeros + first * kPanel;
    }

    // A group's scales, which have `bytes`, and its zero points.
    void prefetch(int64_t group, int64_t bytes) const {
        Vec::prefetch(scales + group * bytes);
        if (bytes > 64) Vec::prefetch(scales + group * bytes + 64);
        if (zeros != scales) Vec::prefetch(zeros + group * kPanel);
    }
};

// The scales of one panel.
struct PanelScales {
    Scale kind;
    const uint8_t* first;
    const float* outer;
    int64_t bytes;  // of a group

    PanelScales(const Matrix& w, int64_t panel)
        : kind(static_cast<Scale>(w.scale)),
          first(w.scales + panel * groups_of(w) * scale_bytes(kind)),
          outer(w.outer == nullptr ? nullptr : w.outer + 2 * panel),
          bytes(scale_bytes(kind)) {}

    // Of COLUMNS vectors of outputs from `lane` on.
    template <int COLUMNS>
    void read(int64_t group, int lane, F (&out)[COLUMNS]) const {
        for (int c = 0; c < COLUMNS; ++c, lane += L) {
            out[c] = scales_at(kind, first + group * bytes, lane);
            if (outer != nullptr) out[c] = Vec::mul(out[c], Vec::set(outer[lane / kHalf]));
        }
    }
};

}  // namespace expertmesh::EM_ISA
