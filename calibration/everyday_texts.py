"""The rules of opinions, questions and definitions. See everyday.py for how they are read."""

from __future__ import annotations

from collections.abc import Mapping

from archnet.calibration.everyday_rules import lines as _lines
from archnet.calibration.everyday_rules import words as _words

TEXTS: Mapping[str, tuple[str, ...]] = {
    "opinion": _lines("""
        I <feel> <gerund> <when_i>.
        I have never <participle> before.
        I <feel> the <product>, but the <feature> is <quality>.
        The <product> was <quality> and the <feature> was <quality>.
        This is the most <quality> <product> I have ever <tried>.
        My <kin> <feels> <gerund> <when_i>.
        My <kin> told me that the <product> was <quality>.
        You should <advice> before you <advice>.
        If you want to <advice>, you have to <advice> first.
        It is <quality> to <advice> when you are <state>.
        We were <state> because the <product> was <quality>.
        I was <state> when my <kin> decided to <advice>.
        Don't worry about it, just <advice>.
        I think it depends on the <feature> of the <product>.
        It's not a good idea to <advice> when you are <state>.
        In my opinion, the <product> is too <quality>.
        She was so <state> that she could not <advice>.
        He said that he would <advice> the next day.
        They have been <state> ever since they moved to a new <home>.
        Thank you very much for the <quality> <product>!"""),
    "question": _lines("""
        How do I <advice>?
        How can I <advice> without <gerund>?
        What is the best way to <advice>?
        Is it safe to <advice> when you are <state>?
        Why does my <pet> keep <gerund>?
        Should I <advice> or <advice>?
        Where can I buy a <quality> <product>?
        How long does it take to <advice>?
        What should I do if my <kin> does not <advice>?
        Does anyone know how to <advice>?
        Can you recommend a <quality> <product> for my <kin>?
        Why is the <feature> of this <product> so <quality>?
        Do you think that I should <advice> with my <kin>?
        When was the first <product> made?"""),
    "gloss": _lines("""
        a <adj_g> <object_g> used for <gerund_g>
        a <object_g> that is used to <verb_g> <mass>
        a <object_g> made of <mass>
        a person who <third_g>
        someone whose job is to <verb_g> <mass>
        the act of <gerund_g>
        the act or process of <gerund_g>
        the state of being <quality_g>
        the quality of being <quality_g> and <quality_g>
        having or showing <mass_g>
        not <quality_g> or <quality_g>
        to <verb_g> something <manner>
        <verb_g> <mass> <manner>
        make or become <quality_g>
        cause to become <quality_g>
        a feeling of <mass_g>
        a group of people who <plural_g>
        a place where people <plural_g>
        a period of time during which people <plural_g>
        a <adj_g> animal that lives in <habitat>
        a plant with <adj_g> <plant_part> that grows in <habitat>
        the part of a <object_g> that <third_g>
        a formal agreement between <parties>
        an official document that gives the right to <verb_g> <mass>
        a sudden loss of <mass_g>
        the study of <mass>
        a unit for measuring <mass>
        in a <quality_g> manner
        in or to a different place
        to a greater degree than before"""),
    "feel": _words("like, love, hate, enjoy, miss, prefer, remember, can't stand, don't mind, recommend"),
    "feels": _words("likes, loves, hates, enjoys, misses, prefers, remembers, is afraid of, is good at"),
    "gerund": _words("""
        cooking dinner, going to the beach, watching movies, reading in bed, getting up early,
        playing games, listening to music, working late, traveling by train, losing weight,
        learning languages, cleaning the house, singing, eating out, drinking coffee, walking in the rain,
        riding my bike, talking to strangers, waiting in line, sleeping late, scratching the furniture,
        biting, barking at night, spending money, hurting anyone, a recipe, washing the dishes"""),
    "when_i": _words("""
        in the morning, after work, on weekends, every day, when it rains, in summer, with my friends,
        at home, on vacation, before breakfast, late at night, once a week, all the time,
        more than anything else, with the whole family"""),
    "participle": _words("""
        been so tired, eaten here, seen such a beautiful sunset, met him, heard that song, been to Africa,
        driven a truck, owned a cat, baked bread, flown alone, played chess, lost my keys, been late,
        tasted anything like it"""),
    "product": _words("""
        movie, book, phone, restaurant, hotel, song, camera, car, computer, game, show, concert, meal,
        pizza, soup, bed, apartment, job, teacher, school, doctor, trip, flight, dress, present, coffee,
        website, story, wine, garden"""),
    "feature": _words("""
        price, service, ending, quality, battery, food, music, story, size, color, acting, view, staff,
        weather, location, taste, sound, screen, smell, design, writing, customer service, speed,
        atmosphere, shape"""),
    "quality": _words("""
        good, great, bad, terrible, excellent, boring, expensive, cheap, slow, fast, beautiful, ugly,
        funny, sad, wonderful, awful, delicious, cold, loud, quiet, interesting, disappointing, surprising,
        small, friendly, useful, strange, difficult, easy, dangerous, healthy, comfortable, perfect,
        old-fashioned, romantic, dirty, amazing"""),
    "tried": _words("seen, read, tried, bought, had, visited, heard of, used, tasted, made"),
    "kin": _words("""
        mother, father, sister, brother, wife, husband, son, daughter, friend, boss, neighbor, teacher,
        roommate, aunt, uncle, grandmother, boyfriend, girlfriend, doctor, landlord, cousin, baby, dog,
        cat, colleague"""),
    "pet": _words("dog, cat, baby, rabbit, hamster, horse, toddler, parrot, kitten, puppy"),
    "advice": _words("""
        call a doctor, buy a house, get married, change jobs, go to college, learn to swim, write a letter,
        clean the oven, fix the roof, cook rice, freeze bread, train a puppy, plant tomatoes,
        remove a stain, get a visa, find a lawyer, ask for help, take a nap, go for a walk,
        eat more vegetables, drink more water, stop smoking, lose weight, save money, pay the bills,
        paint the walls, sharpen a knife, boil an egg, tell the truth, say no, read the instructions,
        wait a few days, sell the car, install a new window, travel alone, learn the guitar,
        wash the sheets, keep the door closed, start a business, get some sleep, grow herbs indoors,
        clean a cast iron pan, replace the battery, apologize, move to another city, bake a cake,
        feed the cat"""),
    "state": _words("""
        tired, hungry, sick, happy, sad, angry, afraid, bored, pregnant, alone, late, busy, rich, poor,
        drunk, excited, worried, surprised, disappointed, ready, nervous, in a hurry, out of work, in love,
        on vacation, at school, lost, asleep"""),
    "home": _words("house, city, country, apartment, village, neighborhood, school, office"),
    "adj_g": _words("""
        small, large, flat, long, narrow, round, hollow, sharp, heavy, thin, thick, wooden, metal, soft,
        pointed, tall, curved, portable, decorative, spiny, poisonous, tropical, hairy, slender, fragrant,
        edible"""),
    "object_g": _words("""
        container, tool, device, machine, instrument, piece of furniture, vessel, weapon, vehicle, garment,
        structure, building, boat, piece of cloth, book, room, bag, board, frame, blade,
        musical instrument, wheel, window, bow, ship, table"""),
    "gerund_g": _words("""
        cutting wood, holding liquids, measuring time, catching fish, covering the head, carrying goods,
        digging soil, writing letters, stealing property, moving from one place to another,
        buying and selling, breaking the law, giving birth, joining two things, teaching children,
        changing direction, telling lies, making something better, removing dirt, expressing thanks,
        paying a debt, asking for information, attacking an enemy, growing crops, dividing into parts,
        preparing food, throwing something away, making a choice, losing a battle,
        taking control of a country"""),
    "verb_g": _words("""
        move, hold, cut, cover, measure, carry, remove, examine, destroy, make, change, sell, protect,
        collect, divide, produce, transport, control, repair, mix, press, push, throw, bend, burn, teach,
        explain, clean, sing, translate, join, hide"""),
    "third_g": _words("""
        teaches music, sells flowers, makes furniture, repairs shoes, studies the stars, works underground,
        commits a crime, believes in one god, travels on foot, writes plays, owns land, lends money,
        gives advice, supports a political party, tells jokes, takes care of animals, hates other people,
        is easily deceived, has lost hope, turns, covers the front, holds the water,
        is closest to the ground, plans buildings, rules a country, fights for pay, breaks a promise"""),
    "plural_g": _words("""
        live together, work for the same company, share a belief, sing in church, fight in a war,
        play music, eat and drink, buy food, worship, wait for trains, keep animals, grow fruit, study law,
        are buried, meet to talk, play sports, vote, trade"""),
    "mass": _words("""
        wood, water, metal, cloth, glass, food, money, light, heat, sound, air, paper, leather, stone,
        goods, oil, land, gold, plants, animals, electricity, weather, rocks, languages, time, distance,
        speed, blood, wool, clay, rubber, grain, steel"""),
    "mass_g": _words("""
        courage, joy, fear, anger, pride, strength, kindness, doubt, pain, love, respect, sorrow,
        intelligence, patience, consciousness, interest, energy, power, guilt, relief, confidence,
        sympathy, wealth, honesty, cruelty, taste, skill"""),
    "quality_g": _words("""
        hard, soft, dry, clean, weak, strong, bright, dark, clear, thick, honest, brave, cruel, polite,
        careful, lazy, complete, equal, certain, famous, rare, common, visible, empty, free, secret,
        sudden, gentle, loud, legal, friendly, calm, intelligent, stupid, serious, generous, healthy,
        ready, tired, rich, poor, wise, flexible, permanent, dangerous, different"""),
    "manner": _words("""
        quickly, slowly, with force, by hand, again, in public, with a knife, without permission, in order,
        together, into small pieces, from one place to another, with great care, by mistake,
        for a second time, on purpose, to the ground, in secret, with heat, by means of a machine,
        for money, against the law, in small amounts, until it is dry"""),
    "habitat": _words("""
        water, deserts, forests, the sea, warm regions, mountains, swamps, Africa, Australia,
        cold climates, holes, trees"""),
    "plant_part": _words("leaves, flowers, roots, berries, stems, seeds, fruit, thorns, bark, needles"),
    "parties": _words("""
        two countries, a buyer and a seller, a worker and an employer, two people, several companies,
        enemies"""),
}
