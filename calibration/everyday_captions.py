"""The rules of captions: who does what, where. See everyday.py for how they are read."""

from __future__ import annotations

from collections.abc import Mapping

from archnet.calibration.everyday_rules import lines as _lines
from archnet.calibration.everyday_rules import words as _words

CAPTIONS: Mapping[str, tuple[str, ...]] = {
    "caption": _lines("""
        <one> is <doing> <where>.
        <one> is <doing> <where>.
        <one> is <doing>.
        <one> is <moving> <path>.
        <some> are <doing> <where>.
        <some> are <moving> <path>.
        <some> are <moving> <path> <when>.
        <one> <wearing> is <doing> <where>.
        <one> <wearing> is <doing>.
        <some> <wearing_p> are <doing>.
        <one> is <doing> while <one_low> is <doing>.
        <one> and <one_low> are <doing> <where>.
        <one> <doing> <where>.
        <one> <wearing> <moving> <path>.
        A <animal_adj> <animal> is <animal_doing> <where>.
        <number> <animals> are <animal_doing> <where>.
        A <animal_adj> <animal> is <animal_moving> <path>.
        The <animal> is <animal_moving> <path>.
        The <person> is <doing>.
        The <person> is not <doing>.
        There is no <person> <doing> <where>.
        Nobody is <doing> <where>.
        <one> is <cooking> <food> in a <vessel>.
        <one> is cutting <food> with a <sharp>.
        <one> is <handling> a <adj> <thing> <where>.
        A <adj> <thing> and a <adj> <thing> are lying on the <surface>.
        The <thing> on the <surface> is <color>.
        A <color> <vehicle> is <vehicle_doing> <path>.
        <number> <color> <vehicle>s are parked <where>.
        <one> is standing next to a <color> <vehicle> <where>.
        A <place_adj> <place> with <number_low> <things_p> and a <thing>.
        <one> is showing a <thing> to <one_low>."""),
    "one": _lines("""
        A <person>
        A <person>
        A <age> <person>
        A <age> <person>
        A <look> <person>
        The <person>
        One <person>
        Someone"""),
    "one_low": _words("a <person>, a <age> <person>, another <person>, the <person>, a <look> <person>"),
    "some": _lines("""
        <number> <people>
        <number> <people>
        <number> <age> <people>
        A group of <people>
        A crowd of <people>
        The <people>
        Some <people>
        Many <people>
        A <person> and a <person>
        A <person> and <poss> <relative>"""),
    "poss": _words("his, her, their"),
    "number": _words("Two, Two, Three, Three, Four, Five, Six, Several"),
    "number_low": _words("two, three, four, five, several, many, a few"),
    "age": _words("young, little, old, elderly, middle-aged, small, tall, teenage"),
    "look": _words("""
        smiling, barefoot, bearded, blond, bald, shirtless, tired, happy, muscular, dark-haired, laughing,
        sleeping, homeless, proud, angry, nervous, pregnant, masked, wet, skilled, lonely"""),
    "person": _words("""
        man, man, man, woman, woman, woman, boy, boy, girl, girl, child, kid, person, lady, guy, baby,
        toddler, teenager, father, mother, grandmother, grandfather, friend, farmer, teacher, student,
        doctor, nurse, soldier, police officer, firefighter, chef, cook, waiter, waitress, musician,
        guitarist, drummer, dancer, singer, painter, artist, cyclist, runner, swimmer, diver, climber,
        skier, snowboarder, surfer, skateboarder, golfer, boxer, wrestler, gymnast, player, goalkeeper,
        coach, referee, tourist, shopper, passenger, driver, pilot, sailor, hiker, worker, builder,
        carpenter, mechanic, photographer, clown, magician, bride, king, monk, priest, vendor, butcher,
        baker, barber, cleaner, gardener, guard, cowboy, juggler, acrobat, cheerleader, motorcyclist,
        rider"""),
    "people": _words("""
        men, men, women, women, boys, girls, children, children, kids, people, people, people, friends,
        adults, teenagers, students, soldiers, police officers, firefighters, workers, players, musicians,
        dancers, cyclists, runners, swimmers, hikers, tourists, passengers, fishermen, farmers, dogs, fans,
        protesters, parents, athletes, actors, sailors, shoppers, spectators, cheerleaders, performers,
        surfers, bikers, construction workers"""),
    "relative": _words("""
        son, daughter, brother, sister, friend, dog, wife, husband, mother, father, grandson, horse, baby"""),
    "wearing": _lines("""
        in a <color> <garment>
        in a <color> <garment>
        wearing a <color> <garment>
        wearing a <garment> and <clothes>
        in <clothes>
        with a <color> <garment> and <hair> hair
        with <hair> hair
        holding a <thing>"""),
    "wearing_p": _words("""
        in <color> <clothes>, wearing <clothes>, wearing <color> <clothes>, in uniform, with <things_p>"""),
    "hair": _words("long, short, curly, blond, brown, grey, red, dark, white, wet, straight"),
    "color": _words("""
        red, red, blue, blue, green, yellow, black, black, white, white, brown, orange, pink, purple, grey,
        silver, golden, striped, bright, dark, colorful, light blue, dark green"""),
    "garment": _words("""
        shirt, shirt, jacket, jacket, hat, coat, dress, sweater, cap, helmet, t-shirt, suit, skirt, scarf,
        vest, uniform, costume, apron, tie, swimsuit, hoodie, robe, tank top, backpack, wig, mask, blouse,
        raincoat"""),
    "clothes": _words("""
        jeans, shorts, sunglasses, glasses, boots, gloves, trousers, sneakers, pajamas, headphones,
        swimming trunks, sandals, socks, white clothes, winter clothes, black shoes, high heels, goggles"""),
    "doing": _lines("""
        playing <sport>
        playing the <instrument>
        playing a <instrument>
        eating <food>
        eating a <meal>
        drinking <drink>
        drinking a glass of <drink>
        reading a <text>
        writing in a <text>
        talking on the phone
        talking to <one_low>
        taking a picture of <object>
        looking at <object>
        watching <object>
        pointing at <object>
        holding <object>
        carrying <object>
        pushing <object>
        pulling <object>
        cleaning <object>
        painting <object>
        washing <object>
        repairing <object>
        drawing <object>
        throwing a <toy>
        catching a <toy>
        kicking a <toy>
        hitting a <toy>
        riding a <ride>
        riding on a <ride>
        driving a <vehicle>
        singing a song
        singing into a microphone
        dancing to the music
        dancing with <one_low>
        sitting on a <seat>
        sitting on a <seat>
        standing near <object>
        lying on a <seat>
        sleeping on a <seat>
        waiting for the <transport>
        cooking <food>
        baking <food>
        peeling a potato
        chopping <food>
        slicing <food>
        mixing <food> in a bowl
        pouring <drink> into a <vessel>
        hugging <one_low>
        kissing <one_low>
        helping <one_low>
        feeding a <animal>
        petting a <animal>
        walking a dog
        brushing <poss> hair
        putting on a <garment>
        taking off a <garment>
        climbing a <climb>
        jumping on a <seat>
        laughing
        crying
        smiling at the camera
        waving a flag
        fishing
        swimming
        skiing
        surfing a big wave
        shopping for <food>
        selling <food>
        building a <build>
        digging a hole
        shooting a gun
        lifting weights
        doing a trick
        doing homework
        blowing bubbles
        opening a <openable>
        closing a <openable>
        fixing a <vehicle>
        folding <clothes>
        typing on a keyboard
        using a <tool>
        having a conversation
        having a picnic
        performing on a stage
        giving a speech
        cutting the grass
        sweeping the floor"""),
    "moving": _words("""
        walking, walking, running, running, jogging, riding a bike, riding a horse, skating, skateboarding,
        jumping, climbing, crawling, hiking, driving, marching, racing, swimming, skiing, dancing,
        strolling, rushing, cycling, sliding, rolling, carrying bags, pushing a stroller, pulling a sled"""),
    "path": _lines("""
        down the <street>
        along the <street>
        across the <ground>
        through the <ground>
        over the <obstacle>
        up the <slope>
        down the <slope>
        past a <place>
        into the <water>
        out of the <place>
        toward the <place>
        around the <ground>
        between the <things_p>
        under a <bridge>
        past a crowd of people
        off a <height>"""),
    "street": _words("""
        street, road, sidewalk, path, trail, beach, track, river bank, highway, avenue, dirt road"""),
    "ground": _words("""
        field, park, grass, snow, sand, forest, woods, desert, mud, meadow, garden, playground,
        parking lot, crowd, city, village, square, market, yard, leaves, shallow water, ice, jungle,
        mountains"""),
    "obstacle": _words("""
        fence, wall, hurdle, bridge, rocks, log, hill, puddle, bar, obstacle, dune, gate, stream"""),
    "slope": _words("""
        hill, mountain, stairs, steps, ramp, slope, ladder, slide, cliff, escalator, waterfall, rope"""),
    "water": _words("water, lake, river, pool, ocean, sea, pond, waves, stream, fountain"),
    "bridge": _words("bridge, tree, umbrella, tent, waterfall, roof, stone arch, streetlight"),
    "height": _words("diving board, cliff, ramp, rock, roof, boat, wall, platform, pier, trampoline"),
    "where": _lines("""
        in the <ground>
        in a <place>
        in a <place>
        in front of a <place>
        outside a <place>
        on the <street>
        near the <water>
        in the <water>
        on a <surface>
        at a <event>
        at the <place>
        next to a <thing>
        behind a <vehicle>
        under a <bridge>
        by a <openable>
        in the background
        on a <weather> day
        at night
        in the rain
        outdoors
        indoors"""),
    "place": _words("""
        kitchen, restaurant, store, shop, house, room, bedroom, living room, classroom, school, office,
        library, church, temple, museum, hospital, hotel, station, airport, gym, stadium, theater, bar,
        cafe, bakery, supermarket, market, farm, barn, factory, garage, workshop, laboratory, courtroom,
        castle, tower, building, skyscraper, swimming pool, zoo, subway, train, bus, boat, tent, hallway,
        bathroom, balcony, backyard, harbor, bank, post office, cinema, nightclub, warehouse,
        construction site, bookstore, prison"""),
    "place_adj": _words("""
        crowded, empty, dark, small, large, modern, old, busy, quiet, bright, dirty, beautiful, wooden"""),
    "event": _words("""
        party, wedding, concert, parade, race, festival, game, match, picnic, meeting, funeral, fair,
        protest, ceremony, birthday party, competition, conference, carnival, rodeo, bus stop, crosswalk,
        dinner table"""),
    "weather": _words("""
        sunny, rainy, cold, hot, snowy, windy, foggy, cloudy, beautiful, summer, winter, warm"""),
    "when": _words("""
        at sunset, at night, in the morning, during a storm, after the rain, on a sunny day, in winter,
        at dawn"""),
    "object": _words("""
        a <color> <thing>, a <thing>, a <adj> <thing>, the <thing>, a <vehicle>, a <animal>, a <baby>,
        a <adj> <build>, the <openable>, some <things_p>, a painting, the sky, the <place>,
        a <color> <vehicle>"""),
    "baby": _words("baby, small child, doll, puppy, kitten, snowman"),
    "thing": _words("""
        bag, box, ball, book, bottle, bucket, camera, candle, chair, clock, computer, cup, flag, flower,
        guitar, hat, kite, knife, ladder, lamp, laptop, microphone, mirror, newspaper, phone, pillow,
        plate, radio, ring, rope, shovel, sign, stick, suitcase, sword, table, television, towel, toy,
        umbrella, vase, wheel, balloon, basket, blanket, broom, hammer, net, paddle, rock, spoon, tree,
        wallet, watch, helmet, necklace, pencil, map, letter, key, cake, pumpkin"""),
    "things_p": _words("""
        balloons, books, boxes, chairs, flowers, trees, rocks, cars, buildings, tables, signs, windows,
        flags, bicycles, bottles, candles, lights, bags, toys, instruments, shelves, umbrellas, boats,
        benches, vegetables, fruits"""),
    "adj": _words("""
        big, small, large, tiny, old, new, heavy, broken, wooden, metal, plastic, empty, full, dirty,
        clean, long, short, round, square, wet, soft, beautiful, strange, cheap, expensive, open, glass,
        giant, inflatable"""),
    "surface": _words("""
        table, floor, bench, rock, bed, roof, shelf, desk, counter, carpet, stage, street, couch, wall,
        ground"""),
    "seat": _words("""
        bench, chair, couch, rock, bed, sofa, swing, trampoline, horse, motorcycle, stool, hammock,
        blanket, curb"""),
    "instrument": _words("""
        guitar, piano, violin, drums, flute, trumpet, saxophone, accordion, cello, harmonica, harp,
        keyboard"""),
    "sport": _words("""
        soccer, basketball, football, tennis, baseball, golf, hockey, volleyball, rugby, cricket, chess,
        cards, a video game, ping pong, frisbee, with a dog, with toys, in the snow, a board game,
        hide and seek"""),
    "food": _words("""
        pizza, bread, rice, noodles, soup, salad, a sandwich, an apple, a banana, an orange, a carrot,
        potatoes, tomatoes, an onion, garlic, a cucumber, meat, chicken, fish, beef, pork, shrimp, eggs,
        cheese, butter, ice cream, cake, cookies, chocolate, a hamburger, a hot dog, pasta, vegetables,
        fruit, a watermelon, strawberries, corn, mushrooms, broccoli, peppers, pancakes, popcorn, cereal,
        grapes, a lemon, a pineapple, tofu, ginger"""),
    "meal": _words("""
        meal, snack, sandwich, burger, cookie, lollipop, banana, piece of cake, slice of pizza,
        bowl of soup"""),
    "drink": _words("water, coffee, tea, milk, juice, beer, wine, soda, lemonade, hot chocolate, oil"),
    "cooking": _words("""
        cooking, frying, boiling, stirring, grilling, mixing, washing, preparing, seasoning, roasting"""),
    "vessel": _words("""
        pan, pot, bowl, glass, cup, bottle, bucket, plate, wok, container, mug, jar, blender"""),
    "sharp": _words("knife, sword, pair of scissors, cleaver, saw, machine"),
    "handling": _words("""
        holding, carrying, lifting, washing, painting, breaking, cleaning, pushing, dropping, hiding,
        moving"""),
    "text": _words("""
        book, newspaper, magazine, letter, map, menu, notebook, sign, story, recipe, poem, diary, comic"""),
    "toy": _words("""
        ball, frisbee, baseball, soccer ball, stick, snowball, basketball, football, tennis ball, stone,
        javelin"""),
    "ride": _words("""
        bicycle, horse, motorcycle, scooter, skateboard, bike, camel, elephant, unicycle, bull,
        roller coaster, train, surfboard, donkey, carousel, mountain bike, dirt bike, boat, tractor, sled,
        jet ski"""),
    "vehicle": _words("""
        car, truck, bus, van, motorcycle, train, tractor, boat, bicycle, taxi, ambulance, police car, ship,
        race car, wagon, jeep, airplane, helicopter, canoe, sailboat, fire truck, bulldozer, scooter,
        pickup truck"""),
    "vehicle_doing": _words("driving, moving, racing, speeding, going, turning, traveling, rolling"),
    "transport": _words("""
        bus, train, subway, traffic light, taxi, ferry, doctor, elevator, show, food, plane, rain to stop"""),
    "climb": _words("tree, rope, rock, wall, ladder, mountain, fence, cliff, pole, hill, rock wall"),
    "build": _words("""
        house, sandcastle, snowman, wall, bridge, fire, tower, shed, table, boat, robot, fence,
        wooden chair"""),
    "openable": _words("""
        door, window, gate, box, bottle, can, present, package, drawer, refrigerator, suitcase, curtain"""),
    "tool": _words("""
        hammer, saw, drill, computer, sewing machine, microscope, vacuum cleaner, hose, lawn mower, phone,
        shovel"""),
    "animal": _words("""
        dog, dog, dog, cat, cat, horse, cow, sheep, goat, pig, rabbit, squirrel, monkey, elephant, lion,
        tiger, bear, wolf, fox, deer, duck, goose, swan, parrot, eagle, owl, chicken, turtle, frog, snake,
        fish, dolphin, whale, shark, panda, kangaroo, puppy, kitten, bird, mouse, hamster, lizard, zebra,
        giraffe, crab, spider, butterfly, bee, hedgehog"""),
    "animals": _words("""
        dogs, dogs, cats, horses, cows, sheep, goats, birds, ducks, geese, monkeys, elephants, lions,
        bears, wolves, rabbits, puppies, kittens, fish, dolphins, pigs, zebras, chickens, pandas,
        squirrels, penguins, deer"""),
    "animal_adj": _words("""
        brown, black, white, big, small, young, little, spotted, wild, wet, furry, black and white, large,
        tan"""),
    "animal_doing": _words("""
        sleeping, eating grass, eating, playing, fighting, drinking water, lying, chasing a ball, resting,
        sitting, standing, barking, biting a stick, catching a frisbee, looking at the camera,
        playing with a toy, digging, chewing on a bone, looking out of the window,
        carrying a stick in its mouth, shaking off water, licking its paw"""),
    "animal_moving": _words("""
        running, running, walking, jumping, flying, swimming, crawling, leaping, chasing another animal"""),
}
