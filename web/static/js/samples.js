// Texts for a first try: five subjects, so that a map has something to show.

const rows = (topic, ...texts) => texts.map((text, i) => ({ id: `${topic}-${i + 1}`, text, metadata: { topic } }));

export const SAMPLES = [
  ...rows("food",
    "Knead the dough until it is smooth and let it rise overnight.", "A slow braise turns tough cuts of beef tender.",
    "Roast the tomatoes with garlic, thyme and olive oil.", "Fresh pasta needs only flour and eggs.",
    "Ferment cabbage with salt for two weeks to make sauerkraut."),
  ...rows("money",
    "The central bank raised its key rate by a quarter point.", "Bond yields fell after the inflation report.",
    "Shares of chip makers led the market higher.", "The euro slipped against the dollar.", "Small firms struggle to get loans."),
  ...rows("space",
    "The telescope found water vapour around a distant planet.", "A rover drilled into an ancient river delta on Mars.",
    "Two black holes merged a billion years ago.", "The probe will fly past an icy moon of Jupiter.",
    "Astronomers mapped the dust between the stars."),
  ...rows("sport",
    "The goalkeeper saved a penalty in extra time.", "She ran the marathon in just over two hours.",
    "The team signed a young striker from Brazil.", "Rain stopped play on the second day of the match.", "He won the final in straight sets."),
  ...rows("music",
    "The orchestra opened with a slow symphony in a minor key.", "A jazz trio played standards until midnight.",
    "The singer recorded her new album in one take.", "He tuned the old piano by ear.", "Drums came in late and drove the chorus."),
];
